"""What is told of deployments: status, history."""
