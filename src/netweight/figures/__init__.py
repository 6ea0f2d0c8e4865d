"""Pictures: matplotlib drawings of what jobs have measured, as PNG files."""
