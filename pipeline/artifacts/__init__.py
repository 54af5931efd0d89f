"""What stages store: tensors to Zarr arrays and Arrow columns, and back. Folders are the caller's."""
