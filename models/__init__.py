"""FastConformer models in torch, and the torch-free parts (config, tokenizer, features) that the daemon shares."""
