"""The deployment workflow: plan, steps, switch, watch, engine, rollback, controller. Sees ports, never adapters."""
