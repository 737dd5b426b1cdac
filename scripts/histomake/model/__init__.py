"""Networks: construction by name, transfer of weights, reuse of trained models."""
