"""What `irl-vla doctor` looks at: installation, machine, data and storage."""
