"""Side by side with other libraries, in one run. Never timed tests: ratios only, and only from here."""
