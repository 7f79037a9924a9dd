"""Folders that machines share, on a shared file system or in object storage: files whole or absent, and claims."""
