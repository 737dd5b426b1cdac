"""The gigapixel image: sources, store, reader, conversion."""
