"""``POST /segment/batch``: many images in one request, answers as they are ready."""
