"""One module a command that is no stage; light to import."""
