"""What was made from what: artefacts, their identity and storage, checkpoints, tracking."""
