"""Tests in a real Chromium; a package, so that its modules may be called as those beside it."""
