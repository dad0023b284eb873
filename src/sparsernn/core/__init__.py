"""What every part stands on: errors, the registry of components, settings, states, metrics."""
