"""The slide sheet, patient-level folds, leakage and quarantine."""
