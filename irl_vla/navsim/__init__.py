"""The benchmark's own interfaces: submissions, the devkit's agent, the results file."""
