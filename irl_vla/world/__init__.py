"""The generated driving world and its sensors, written in NAVSIM's layout."""
