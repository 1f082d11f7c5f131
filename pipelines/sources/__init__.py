"""Where corpora lie: folders, archives, URLs, S3; and how their audio is decoded."""
