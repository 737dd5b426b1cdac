"""The slide sheet, patient-level folds, leakage checks and quarantine."""
