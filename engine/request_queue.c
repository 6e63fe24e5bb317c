typedef int em_empty_request_queue;
