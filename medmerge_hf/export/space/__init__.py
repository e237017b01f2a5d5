"""A Gradio Space for an export: `app/` holds what runs there, which knows transformers and not this package."""
