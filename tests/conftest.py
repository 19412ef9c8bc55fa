"""What all tests share."""

import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that: tests that interrupt a command would
# depend on how the test runner itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)
