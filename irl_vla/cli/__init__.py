"""The command line: stages, commands, the doctor, exit statuses."""
