typedef int em_empty_unicode_classes;
