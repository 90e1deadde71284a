"""Words with times as subtitles and other files that keep them. Knows nothing of audio, models or commands."""

KINDS = ("txt", "srt", "vtt", "ctm", "jsonl")
