"""Adapters: what PEFT leaves beside a model or inside it, as weights with the adapter in them."""
