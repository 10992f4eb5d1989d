"""The page for people at ``/``, and the page of the API at ``/docs``; both load nothing from elsewhere."""
