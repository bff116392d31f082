"""HTTP service and local page of `istvt serve`: uploaded videos are judged one after another, and explained."""
