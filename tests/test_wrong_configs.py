"""Every mistake in a config ends in one sentence, before any device work."""
