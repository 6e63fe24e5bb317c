typedef int em_empty_http;
