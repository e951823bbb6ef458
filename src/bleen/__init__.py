"""Zero-downtime blue-green deployments with automatic rollback, on your own nginx."""
