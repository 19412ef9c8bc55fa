"""From plans to tables: baselines, one- and two-stage evaluation, intervals, fingerprints, plan files."""
