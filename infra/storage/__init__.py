"""Files under a URL, on a disk or on S3, with exclusive create as a primitive."""
