typedef int em_empty_head;
