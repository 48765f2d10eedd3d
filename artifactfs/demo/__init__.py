"""Programs that show the service at work: no part of the service itself."""
