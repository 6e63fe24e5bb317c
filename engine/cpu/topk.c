typedef int em_empty_topk;
