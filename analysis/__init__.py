"""Tables and plots from run folders. It trains nothing and never imports torch."""
