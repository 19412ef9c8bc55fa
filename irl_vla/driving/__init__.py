"""Vehicle model, car following, paths and routes: what world and score both need."""
