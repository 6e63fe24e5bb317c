/* The page at `/` and its parts under `/page/`: files of server/page/, compiled in by server/page/embed.py. */
#ifndef EM_SERVER_PAGE_H
#define EM_SERVER_PAGE_H

#include <stddef.h>

#include "server/http.h"

typedef struct em_page_file {
    const char *name; /* under /page/ */
    const char *content_type;
    const char *etag; /* with its quotes: of the content */
    const unsigned char *data;
    size_t len;
} em_page_file;

extern const em_page_file em_page_files[]; /* [em_page_n_files] the first is the page itself */
extern const size_t em_page_n_files;

/* Handlers of `/` and of `/page/NAME`; 404 with --no-page. HTTP thread. */
enum MHD_Result em_page_root(em_exchange *x);
enum MHD_Result em_page_part(em_exchange *x);

#endif
