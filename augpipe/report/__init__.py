"""What people look at: contact sheets, HTML pages, the catalogue in words, measured speed."""
