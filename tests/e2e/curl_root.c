/* For programs on libcurl that can not be told which root to trust: loaded before libcurl, this has every request trust
   the file in $CURL_ROOT and no other. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

enum { CURLOPT_CAINFO = 10065 };

int curl_easy_setopt(void *handle, int option, ...);

int curl_easy_perform(void *handle)
{
    int (*perform)(void *) = (int (*)(void *))dlsym(RTLD_NEXT, "curl_easy_perform");
    curl_easy_setopt(handle, CURLOPT_CAINFO, getenv("CURL_ROOT"));
    return perform(handle);
}
