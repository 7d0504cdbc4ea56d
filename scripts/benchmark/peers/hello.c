/* The small answer with libfcgi, on the Unix socket that the argument names.
 *
 * FCGX_Accept_r stays with a kept connection until that closes, so each connection takes a
 * thread, as in the library's own threaded example. */
#include <fcgiapp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

enum { THREADS = 64, BACKLOG = 1024 };

static pthread_mutex_t accepting = PTHREAD_MUTEX_INITIALIZER;
static int listener;

static void *serve(void *unused) {
  FCGX_Request request;
  (void)unused;
  FCGX_InitRequest(&request, listener, 0);
  for (;;) {
    int lock = request.ipcFd < 0, result;
    if (lock) pthread_mutex_lock(&accepting);
    result = FCGX_Accept_r(&request);
    if (lock) pthread_mutex_unlock(&accepting);
    if (result < 0) break;
    FCGX_PutS("Content-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!", request.out);
    FCGX_Finish_r(&request);
  }
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t threads[THREADS];
  if (argc != 2 || FCGX_Init() != 0) return EXIT_FAILURE;
  signal(SIGTERM, SIG_DFL); /* the library only ends threads that get a request */
  listener = FCGX_OpenSocket(argv[1], BACKLOG);
  if (listener < 0) return EXIT_FAILURE;
  for (int i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, serve, NULL) != 0) return EXIT_FAILURE;
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
  return EXIT_SUCCESS;
}
