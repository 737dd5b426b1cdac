"""Records: every JSON file of a results folder as a typed, versioned model.

One module per record, because module borders are re-run borders: a new field in the quality record must not convert
10,000 slides again. So nothing is imported here.
"""
