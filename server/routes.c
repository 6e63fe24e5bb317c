typedef int em_empty_routes;
