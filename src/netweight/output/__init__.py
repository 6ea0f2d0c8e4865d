"""Floor 5: tables, pictures and folders that appear whole or not at all."""
