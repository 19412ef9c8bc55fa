"""Pictures and the HTML page of an experiment."""
