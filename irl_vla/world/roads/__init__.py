"""Road layouts: arms, lanes, junctions, signs and what stands beside the road."""
