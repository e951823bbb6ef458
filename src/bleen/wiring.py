"""From a configuration to a manager or a controller; the one importer of adapters."""
