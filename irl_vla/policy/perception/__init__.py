"""Camera and LiDAR to bird's-eye view, boxes and map."""
