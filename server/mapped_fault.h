/* A page of a mapped file that cannot be read, because the file was cut short or its disk fails, ends the process with
 * SIGBUS. This makes it end with a sentence that names the file and exit code 1. */
#ifndef EM_SERVER_MAPPED_FAULT_H
#define EM_SERVER_MAPPED_FAULT_H

void em_mapped_fault_install(void); /* once, before there are threads */

#endif
