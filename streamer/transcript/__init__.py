"""From tokens to words, segments and finals. Knows nothing of audio, engines or sockets."""
