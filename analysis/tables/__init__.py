"""Tables: their content and their renderers."""
