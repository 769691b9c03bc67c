"""Pictures, folders of them, and videos."""
