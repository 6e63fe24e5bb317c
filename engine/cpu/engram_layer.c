typedef int em_empty_engram_layer;
