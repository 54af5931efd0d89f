"""How values are laid out in files: documents (JSON), arrays (Zarr) and tables (Arrow, Parquet)."""
